"""Corrections of readers: from an export of the web page to cuts that teach the detector (docs/feedback.md)."""
