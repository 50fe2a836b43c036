-- What is due waits again, and so does what a hand holds whose lease has ended. Follows queue.lua.
--
-- ARGV[1]  how the name of a hand's list begins
-- ARGV[2]  after how many attempts an entry is dead
-- ARGV[3]  why, as a JSON string
-- ARGV[4]  how many entries are moved at most
-- ARGV[5]  milliseconds that a hand is known after its lease
--
-- Returns {due, taken over, dead of these}. A hand is not forgotten with its lease: a BLMOVE of a worker that is gone may
-- be carried out when Redis wakes up, and what it puts there must be found.
local time, lot = now(), tonumber(ARGV[4])
local due = redis.call('ZRANGEBYSCORE', LATER, '-inf', milliseconds(time), 'LIMIT', 0, lot)
for _, entry in ipairs(due) do
    redis.call('RPUSH', WAITING, entry)
    redis.call('ZREM', LATER, entry)
end

local over, dead = 0, 0
local ended = redis.call('ZRANGEBYSCORE', HANDS, '-inf', milliseconds(time), 'WITHSCORES')
for i = 1, #ended, 2 do
    local list = ARGV[1] .. ended[i]
    while over < lot do
        local entry = redis.call('LINDEX', list, 0)
        if not entry then
            break
        end
        -- Who had it is dead or was frozen, perhaps because of it: that was an attempt.
        local failures, said = string.match(entry, '^(%d+) ({.*})$')
        failures = tonumber(failures or 0) + 1
        if said and failures < tonumber(ARGV[2]) then
            local again = string.format('%d ', failures) .. said
            redis.call('LPUSH', WAITING, again)
            grow(#again - #entry)
        elseif said then
            -- Of two reasons in an object the last one counts.
            local last = ',"reason":' .. ARGV[3] .. ',"failed_at":' .. milliseconds(time) .. '}'
            local buried = string.format('%d ', failures) .. string.sub(said, 1, -2) .. last
            redis.call('RPUSH', DEAD, buried)
            grow(#buried - #entry)
            count('dead')
            dead = dead + 1
        else
            redis.call('RPUSH', DEAD, entry)
            count('dead')
            dead = dead + 1
        end
        redis.call('LPOP', list)
        count('taken_over')
        over = over + 1
    end
    if over < lot and tonumber(ended[i + 1]) < time - ARGV[5] then
        redis.call('ZREM', HANDS, ended[i])
    end
end

-- Whatever an operator has deleted, or Redis evicted: an empty queue has no bytes.
local left = redis.call('LLEN', WAITING) + redis.call('ZCARD', LATER) + redis.call('LLEN', DEAD)
for _, hand in ipairs(redis.call('ZRANGE', HANDS, 0, -1)) do
    left = left == 0 and redis.call('LLEN', ARGV[1] .. hand) or left
end
if left == 0 then
    redis.call('HSET', COUNTS, 'bytes', 0)
end
return {#due, over, dead}
