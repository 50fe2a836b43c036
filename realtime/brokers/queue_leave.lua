-- Hands rest: what they still hold waits again, before all else, as if nobody had taken it. Follows queue.lua.
--
-- ARGV[1]  how the name of a hand's list begins
-- ARGV[2]… the hands
--
-- They stay known for a while, like those whose lease has ended: see queue_tend.lua.
local ends = milliseconds(now())
local back = 0
for i = 2, #ARGV do
    while redis.call('LMOVE', ARGV[1] .. ARGV[i], WAITING, 'RIGHT', 'LEFT') do
        back = back + 1
    end
    redis.call('ZADD', HANDS, ends, ARGV[i])
end
return back
