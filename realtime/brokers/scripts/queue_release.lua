-- Releases hands: their entries return to the front of the queue, as if they had not been taken.
-- Follows queue.lua.
--
-- ARGV[1]  the prefix of the names of hands' lists
-- ARGV[2]… the hands
--
-- The hands stay known for a while, like those with an expired lease: see queue_tend.lua.
local ends = milliseconds(now())
local back = 0
for i = 2, #ARGV do
    while redis.call('LMOVE', ARGV[1] .. ARGV[i], WAITING, 'RIGHT', 'LEFT') do
        back = back + 1
    end
    redis.call('ZADD', HANDS, ends, ARGV[i])
end
if back > 0 then
    wake()
end
return back
