"""`kode store`: looking after stores; one module per kind of work, imported when it is called."""
