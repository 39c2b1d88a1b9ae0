"""How a log is cleaned: ids, parsing, rules, vocabulary."""
