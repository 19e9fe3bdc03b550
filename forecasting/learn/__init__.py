"""The pure core: frames in, frames or decisions out. It does no I/O, asks no clock and knows no database."""
