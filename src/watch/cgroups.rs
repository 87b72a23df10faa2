//! cgroupfs by inotify(7): the directories that lead to annotated paths, and no others.
