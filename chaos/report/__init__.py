"""What is left of a drill: one page for people, one document and one JUnit file for programs."""
