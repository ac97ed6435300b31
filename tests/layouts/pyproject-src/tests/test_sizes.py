raise ImportError("the tests of a project are not part of what runs")
