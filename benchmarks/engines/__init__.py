"""Workers: one module a program that is measured, run as a process by the interpreter of that program's environment."""
