"""How a log is cleaned: parsing, ids, rules, vocabularies."""
