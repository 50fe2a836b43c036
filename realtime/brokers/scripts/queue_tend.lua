-- Requeues entries that are due, and those in hands whose lease has expired. Follows queue.lua.
--
-- ARGV[1]  the prefix of the names of hands' lists
-- ARGV[2]  the number of attempts after which an entry is dead
-- ARGV[3]  the reason, as a JSON string
-- ARGV[4]  the maximum number of entries to move
-- ARGV[5]  milliseconds for which a hand stays known after its lease
--
-- Returns {due, taken over, dead of these}. A hand outlives its lease: a BLMOVE of a lost worker
-- may still be executed when Redis resumes, and the entry that it moves must be found.
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
        -- The worker has died or was frozen, perhaps because of this entry, so this counts as an
        -- attempt.
        local failures, said = string.match(entry, '^(%d+) ({.*})$')
        failures = tonumber(failures or 0) + 1
        if said and failures < tonumber(ARGV[2]) then
            local again = string.format('%d ', failures) .. said
            redis.call('LPUSH', WAITING, again)
            grow(#again - #entry)
        elseif said then
            -- If an object has two reasons, the last one counts.
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

if #due + over > dead then
    wake()
end

-- An empty queue has no bytes, even if an operator deleted or Redis evicted entries.
local left = redis.call('LLEN', WAITING) + redis.call('ZCARD', LATER) + redis.call('LLEN', DEAD)
for _, hand in ipairs(redis.call('ZRANGE', HANDS, 0, -1)) do
    left = left == 0 and redis.call('LLEN', ARGV[1] .. hand) or left
end
if left == 0 then
    redis.call('HSET', COUNTS, 'bytes', 0)
end
return {#due, over, dead}
