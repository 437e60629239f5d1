"""File formats that trackers write into: framing, checksums, protocol buffers, SQLite."""
