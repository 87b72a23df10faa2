//! Gives back the pages of journal files that libsystemd has read: it keeps its files mapped, and what was once read of
//! them counts as this process's memory, up to megabytes for each file.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};

/// Lets go of all pages of mapped journal files. They are read from the page cache again when they are needed.
pub fn release_journals() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(journal) {
        // SAFETY: the range is a mapping of libsystemd's, which maps journals shared and for reading only. Dropping
        // the pages of such a mapping changes nothing that can be read through it (madvise(2), MADV_DONTNEED).
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Address and length of a line of proc_pid_maps(5), if it is a journal, shared and read-only.
fn journal(line: &str) -> Option<(NonNull<c_void>, usize)> {
    let (range, rest) = line.split_once(' ')?;
    if !(rest.starts_with("r--s") && rest.ends_with(".journal")) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((NonNull::new(start as *mut c_void)?, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_journals_mapped_for_reading_are_let_go_of() {
        let line = "7f0000001000-7f0000003000 r--s 00000000 08:01 42   /var/log/journal/ab/system.journal";
        let (start, length) = journal(line).unwrap();
        assert_eq!((start.as_ptr() as usize, length), (0x7f00_0000_1000, 0x2000));
        for other in [
            "7f0000001000-7f0000003000 rw-s 00000000 08:01 42   /var/log/journal/ab/system.journal",
            "7f0000001000-7f0000003000 r--p 00000000 08:01 42   /usr/lib/libc.so.6",
            "7f0000001000-7f0000003000 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(journal(other), None, "{other}");
        }
    }
}
