"""Validity of scores: shortcuts that they may rest on, and the questions that the rows cannot answer."""
