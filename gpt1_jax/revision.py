"""Holds the commit for copies without .git (archives and images).

`git archive` substitutes the hash below (see .gitattributes);
launch/Dockerfile overwrites this file.
"""

COMMIT = '$Format:%H$'
