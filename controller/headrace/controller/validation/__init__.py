"""What the API server's schema and the validating webhook refuse (contract §1.3, §2.7).

admission.py   the order of it all   ·   schema.py  rules of the CRD   ·   pods.py  rules 3, 5
multi_node.py  rule 4   ·   sources.py  rules 7-9   ·   components.py  rules 6, 10-16
scaling.py     rules 17-20   ·   canary.py  rules 21-22   ·   updates.py  U1, U2
"""

from headrace.controller.validation.admission import validate

__all__ = ["validate"]
