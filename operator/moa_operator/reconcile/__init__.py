"""From what is written and what there is to what there should be: level-triggered, so any order of events will do."""
