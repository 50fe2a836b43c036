-- In one step: assigns the position of a publication, sends it, and queues it for its fallback if
-- it has no receivers, or always. Follows position.lua.
--
-- KEYS[3]     answer to the idempotency key, if ARGV[4] is not ''
-- the last 4  with a fallback: waiting (list), later (sorted set), dead (list), counts (hash)
-- ARGV[2]  Redis channel
-- ARGV[3]  body: the JSON that follows the envelope's head
-- ARGV[4]  fingerprint of the body; '' without an idempotency key: then nothing is looked up or
--          stored
-- ARGV[5]  seconds until the answer expires
-- ARGV[6]  with a fallback: fields of the queued entry besides position and body, as the middle of
--          a JSON object
-- ARGV[7]  '1' to queue it even if it has receivers
-- ARGV[8]  the maximum number of waiting, later and dead entries
-- ARGV[9]  the maximum size of these in bytes, including entries in hands
--
-- Returns {epoch, offset, nodes, repeated, queued}, {'conflict'} or {'full'}. The order matters:
-- the first write precedes PUBLISH, so that a Redis which refuses writes (full, replica, bad disk)
-- refuses the whole publication. The lists are read before that, so that a key of another type
-- (from another application) causes no partial publication either.
local once = ARGV[4] ~= '' and KEYS[3]
if once then
    local stored = redis.call('GET', once)
    if stored then
        local fingerprint, epoch, offset, nodes, queued = string.match(stored, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
        if fingerprint ~= ARGV[4] then
            return {'conflict'}
        end
        return {epoch, offset, nodes, '1', queued}
    end
end

local nodes = string.format('%d', redis.call('PUBSUB', 'NUMSUB', ARGV[2])[2])
local queued = '0'
if ARGV[6] and (nodes == '0' or ARGV[7] == '1') then
    queued = '1'
    local waiting, later, dead, counts = KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
    if redis.call('LLEN', waiting) + redis.call('ZCARD', later) + redis.call('LLEN', dead) >= tonumber(ARGV[8]) then
        return {'full'}
    end
    local bytes = redis.call('HGET', counts, 'bytes')
    if not bytes then
        -- The queue of an earlier version, or the counts were lost: start with Redis' own estimate.
        bytes = 0
        for i = #KEYS - 3, #KEYS - 1 do
            bytes = bytes + (redis.call('MEMORY', 'USAGE', KEYS[i]) or 0)
        end
        redis.call('HSET', counts, 'bytes', string.format('%.0f', bytes))
    end
    -- 96: the maximum size of an entry's attempts, epoch, offset and time, with their names.
    if bytes + #ARGV[3] + #ARGV[6] + 96 > tonumber(ARGV[9]) then
        return {'full'}
    end
end
local epoch = current_position(KEYS[1], KEYS[2], ARGV[1], true)
local offset = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'offset', 1))
if offset == '1' then
    redis.call('HSET', KEYS[2], string.sub(redis.sha1hex(KEYS[1]), 1, 16), '')
end
extend_expiry(KEYS[1], offset)
redis.call('PUBLISH', ARGV[2], '1 ' .. epoch .. ' ' .. offset .. ' ' .. ARGV[3])
if queued == '1' then
    -- Failed attempts, and one JSON object. Joined as text, because cjson would round numbers in
    -- the data.
    local time = redis.call('TIME')
    local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    local head = '{"epoch":"' .. epoch .. '","offset":' .. offset .. ',"at":' .. at .. ',' .. ARGV[6] .. ','
    local entry = '0 ' .. head .. string.sub(ARGV[3], 2)
    redis.call('RPUSH', KEYS[#KEYS - 3], entry)
    redis.call('HINCRBY', KEYS[#KEYS], 'bytes', #entry)
end
if once then
    local answer = table.concat({ARGV[4], epoch, offset, nodes, queued}, ' ')
    redis.call('SET', once, answer, 'EX', ARGV[5])
end
return {epoch, offset, nodes, '0', queued}
