-- Read a position and renew its expiry: a counter with listeners never expires, since their node reads it again and
-- again. Follows position.lua. Returns {epoch, offset}.
local epoch, offset = living(KEYS[1], KEYS[2], ARGV[1], false)
keep(KEYS[1], offset)
return {epoch, offset}
