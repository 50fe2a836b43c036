"""HTTP beside the API: Django views, probes and descriptions.

* `views`: The sync rim of the API.
* `loop_backend`: The API backend for event loops.
* `staff`: Publishing by the session of a page.
* `health`: The probes.
* `exposition`: The metrics in the formats that Prometheus reads.
* `documents`: Serves the descriptions of the API.
* `openapi`: Describes the API in OpenAPI.
* `openapi_methods`: Texts, results and errors of its methods.
* `openapi_schemas`: Schemas of its requests and responses.
* `asyncapi`: Describes the wire protocol in AsyncAPI.
"""
