"""One file per foreign system: its library is imported and its errors are translated there, nowhere else."""
