"""The pages of studies that put several trainings together."""
