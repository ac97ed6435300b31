"""What the tests of Google's platforms share."""

from tests.google_cloud.fixtures import cloud as cloud
from tests.google_cloud.fixtures import session as session
from tests.google_cloud.fixtures import time as time
