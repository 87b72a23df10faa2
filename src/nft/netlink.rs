//! The little nfnetlink that libnftables cannot do: delete and list dead ids, hear of changes.
