//! Tests of the whole: what holds over all files, and what the program does. One binary, to link once.

mod architecture;
