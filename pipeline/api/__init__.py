"""The Python interface: trained models that answer files and arrays, and a classifier for scikit-learn."""
