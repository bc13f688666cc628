"""What only a GPU can show: a program, because GPU hosts have no test runner."""
