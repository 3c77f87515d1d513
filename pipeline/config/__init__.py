"""The options of an experiment, one frozen dataclass a section.

Each field is a line of the YAML file and an option of the command line
(``--section.field``); its description is the text of ``--help``.
"""
