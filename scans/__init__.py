"""Read scans in the formats of the field: NIfTI, NRRD, MetaImage and DICOM."""
