"""The page of single scans: which are shown, their voxels, and the viewer."""
