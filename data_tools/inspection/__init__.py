"""What a dataset looks like: facts of its log, its pictures, what to worry about, and the page that shows it."""
