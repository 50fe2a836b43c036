-- Renews the leases of hands. Follows queue.lua.
--
-- ARGV[1]  milliseconds
-- ARGV[2]… the hands
local ends = milliseconds(now() + ARGV[1])
for i = 2, #ARGV do
    redis.call('ZADD', HANDS, ends, ARGV[i])
end
return #ARGV - 1
