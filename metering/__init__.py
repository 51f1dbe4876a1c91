"""Money words: amounts, parameters, rules, settlement, ledger, statement, audit."""
