"""The commands of this wheel, one module each; they are imported when they are called."""
