"""Validity of scores: shortcuts, subgroups that they differ in, and the questions that the rows cannot answer."""
