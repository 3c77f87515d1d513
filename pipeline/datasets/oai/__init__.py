"""The Osteoarthritis Initiative as it is delivered: archives of DICOM series, their list, and clinical tables."""
