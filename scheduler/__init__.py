"""Work words and the decision: what is asked, where it may go, and what to do about it."""
