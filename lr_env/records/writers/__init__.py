"""Writers of finished runs into the logs of trackers; one file for each tracker."""
