"""Web Push: notifications for users who have no page open, as the fallback ``webpush``.

An app with one table, the subscriptions of browsers. ``publish(personal_channel(user), data,
fallback="webpush")`` reaches the user's open pages, or else all browsers in which the user has
allowed notifications. See docs/howto/webpush.md.
"""
