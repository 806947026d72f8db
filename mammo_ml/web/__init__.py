"""The lesion locator over HTTP: a REST interface and a web page, on the champions of the registry.

- `server`: starts it; `app`: the routes and what they answer; `guards`, `bodies`: who may ask, and how much.
- `slots`: the version that is served, and its swap when the champion changes; `models`: a version ready to answer.
- `sandbox`, `preparing`: film files are decoded in processes of their own, with limits on time and memory.
- `operating_points`: what a threshold on the score is worth.
- `static`: the page, plain files.

Nothing that is sent here is written to disk, and names of files are neither logged nor answered.
"""
