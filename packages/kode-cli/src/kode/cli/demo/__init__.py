"""`kode demo`: a real agent on real files is killed in mid-work, resumes from SQLite, and is checked from outside."""
