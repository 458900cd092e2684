"""The pure kernel: states, inputs, and the machine that turns one into the next. No I/O and no clock."""
