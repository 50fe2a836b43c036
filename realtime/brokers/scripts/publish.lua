-- In one step: assigns the positions of publications, sends them, and queues each for its fallback
-- if it has no receivers, or always. Follows position.lua.
--
-- KEYS[1]     the base
-- then        for each publication: the hash of its channel and, with an idempotency key, the key
--             of the answer to it
-- the last 4  if one has a fallback: waiting (list), later (sorted set), dead (list), counts (hash)
-- ARGV[1]  sixteen random hex digits, in case new epochs start here
-- ARGV[2]  the number of publications
-- then     for each: its Redis channel; its tail, which follows the position in the envelope
--          (fields, and from the first brace the body); the fingerprint of the body with an
--          idempotency key, else ''; 'always' or 'nobody' with a fallback, else ''. With a fallback
--          also the queued entry's fields besides position and body, the middle of a JSON object
-- the last 3  if one has an idempotency key or a fallback: seconds until an answer expires, the
--             maximum number of waiting, later and dead entries, and the maximum size of these in
--             bytes, including entries in hands
--
-- Returns for each publication 'epoch offset nodes repeated queued', 'conflict', 'full', or an error
-- reply: text, because Redis takes 1 µs to convert a table. A publication that fails does not affect
-- the others. What cannot change while a script runs is read once: the history of writes (ADR-0006),
-- and for each channel its receivers and its epoch, which `known` has by channel and by key. With a
-- script for each, Redis took up to three times as long (ADR-0036).

-- The order matters: the first write precedes PUBLISH, so that a Redis which refuses writes (full,
-- replica, bad disk) refuses the whole publication. The lists are read before that, so that a key
-- of another type (from another application) causes no partial publication either.
local function publish(key, once, channel, tail, fingerprint, when, middle)
    if once then
        local stored = redis.call('GET', once)
        if stored then
            local theirs, epoch, offset, nodes, queued = string.match(stored, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
            if theirs ~= fingerprint then
                return 'conflict'
            end
            return table.concat({epoch, offset, nodes, '1', queued}, ' ')
        end
    end

    local nodes = known[channel]
    if not nodes then
        nodes = redis.call('PUBSUB', NUMSUB, channel)[2]
        known[channel] = nodes
    end
    local queued, body = '0', nil
    if middle and (nodes == 0 or when == 'always') then
        queued = '1'
        body = string.sub(tail, (string.find(tail, '{', 1, true)))
        local waiting, later, dead, counts = KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
        local items = redis.call('LLEN', waiting) + redis.call('ZCARD', later) + redis.call('LLEN', dead)
        if items >= tonumber(ARGV[#ARGV - 1]) then
            return 'full'
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
        if bytes + #body + #middle + 96 > tonumber(ARGV[#ARGV]) then
            return 'full'
        end
    end
    local epoch = known[key] or current_position(key, KEYS[1], ARGV[1], true)
    local offset = string.format('%.0f', redis.call('HINCRBY', key, 'offset', 1))
    if offset == '1' then
        redis.call('HSET', KEYS[1], string.sub(redis.sha1hex(key), 1, 16), '')
    end
    if not known[key] then
        redis.call('EXPIRE', key, LISTENED)
        known[key] = epoch
    end
    -- For 8, 16, 29 to 32 … subscribers, NUMSUB of Valkey 9.1 returns tens of millions.
    nodes = math.min(nodes, redis.call(PUBLISH, channel, '1 ' .. epoch .. ' ' .. offset .. ' ' .. tail))
    known[channel] = nodes
    if queued == '1' then
        -- Failed attempts, and one JSON object. Joined as text, because cjson would round numbers
        -- in the data.
        local time = redis.call('TIME')
        local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
        local head = '{"epoch":"' .. epoch .. '","offset":' .. offset .. ',"at":' .. at .. ',' .. middle .. ','
        local entry = '0 ' .. head .. string.sub(body, 2)
        redis.call('RPUSH', KEYS[#KEYS - 3], entry)
        redis.call('HINCRBY', KEYS[#KEYS], 'bytes', #entry)
        if IS_SHARDED and not known.woken then
            -- Workers of a cluster cannot wait in BLMOVE, see queue.lua. Sent once in a script, and
            -- before its end: nobody receives it earlier. They look each second, so it may fail.
            known.woken = true
            redis.pcall(PUBLISH, KEYS[#KEYS - 3], '')
        end
    end
    if once then
        redis.call('SET', once, table.concat({fingerprint, epoch, offset, nodes, queued}, ' '), 'EX', ARGV[#ARGV - 2])
    end
    return epoch .. ' ' .. offset .. ' ' .. nodes .. ' 0 ' .. queued
end

local answers = {}
local key, argument = 2, 3
for i = 1, tonumber(ARGV[2]) do
    local position, channel, tail, fingerprint, when =
        KEYS[key], ARGV[argument], ARGV[argument + 1], ARGV[argument + 2], ARGV[argument + 3]
    local once, middle
    key, argument = key + 1, argument + 4
    if fingerprint ~= '' then
        once, key = KEYS[key], key + 1
    end
    if when ~= '' then
        middle, argument = ARGV[argument], argument + 1
    end
    local is_done, answer = pcall(publish, position, once, channel, tail, fingerprint, when, middle)
    if not is_done and type(answer) == 'string' then
        answer = {err = answer}
    end
    answers[i] = answer
end
return answers
