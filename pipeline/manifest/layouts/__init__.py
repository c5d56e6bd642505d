"""Layouts: lists of a lake that were not written for lakevec, recognised by their columns and files.

In: files, schemas, a folder of media. Out: a `source.Source`, whose columns play the manifest's roles. No medium is
read. Refused with ManifestError: a forced layout whose columns are not there.
"""
