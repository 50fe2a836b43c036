"""The API for a host project's code, and the hooks into Django.

* `publishing`: `publish` and its variants.
* `user_tokens`: Tokens and personal channels of users.
* `user_commands`: Commands to the connections of a user.
* `own_publications`: Collects the positions of what a request has published.
* `middleware`: Names them in a header of the response.
* `presence`: The members of a channel.
* `positions`: The current positions of channels.
* `live_views`: Decorators for views whose pages subscribe from there.
* `page_positions`: The positions of what one page shows.
* `page_config`: What a page needs to connect.
* `page_tags`: What the template tags write.
* `signals`: Django's signals that revoke a user's rights.
"""
