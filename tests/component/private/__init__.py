"""The modules that touch private parts of libraries: that they notice what is missing, and change nothing for others."""
