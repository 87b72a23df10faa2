//! Policy to kernel: compile, try, blame, leave out, try again.
