"""The stages that put several trainings together."""
