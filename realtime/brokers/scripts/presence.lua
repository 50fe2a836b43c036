-- Shared by all scripts about members. realtime/brokers/presence_commands.py explains the terms.
--
-- A channel's members are a hash: client -> "<node> <length of the user> <user><info>". A second
-- hash counts the connections of each user. The same script writes both, so they are consistent.
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function parts(entry)
    local node, length, rest = string.match(entry, '^(%x+) (%d+) (.*)$')
    return node, string.sub(rest, 1, length), string.sub(rest, length + 1)
end

local function count_out(users, user)
    if redis.call('HINCRBY', users, user, -1) <= 0 then
        redis.call('HDEL', users, user)
    end
end

-- Announces joins and leaves to the nodes, or only their number if the message would be long.
local function tell(channel, here, users, joined, left, most, bytes)
    local untold, came, went = 0, table.concat(joined, ','), table.concat(left, ',')
    if #joined + #left > most or #came + #went > bytes then
        untold, came, went = #joined + #left, '', ''
    end
    redis.call(PUBLISH, channel, string.format(
        'members {"num_clients":%d,"num_users":%d,"joined":[%s],"left":[%s],"untold":%d}',
        redis.call('HLEN', here), redis.call('HLEN', users), came, went, untold))
end

-- Returns a function that tells whether a node has a lease, with a cache.
local function living(nodes)
    local time, known = now(), {}
    return function(node)
        if known[node] == nil then
            local ends = redis.call('ZSCORE', nodes, node)
            known[node] = ends and tonumber(ends) > time or false
        end
        return known[node]
    end
end
