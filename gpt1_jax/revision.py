"""The commit of a copy without .git: written by `git archive` or the image.

`git archive` puts the hash in the place of the word below (.gitattributes);
launch/Dockerfile writes this file anew.
"""

COMMIT = '$Format:%H$'
