-- What all scripts about members share. The words are explained in realtime/brokers/presence_commands.py.
--
-- A channel's members are a hash: client -> "<node> <length of the user> <user><info>". Beside it a hash counts the
-- connections of each user. Both are written by the same script, so they agree.
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

-- Tells the nodes who came and who went; only how many, where that would be long.
local function tell(channel, here, users, joined, left, most, bytes)
    local untold, came, went = 0, table.concat(joined, ','), table.concat(left, ',')
    if #joined + #left > most or #came + #went > bytes then
        untold, came, went = #joined + #left, '', ''
    end
    redis.call('PUBLISH', channel, string.format(
        'members {"num_clients":%d,"num_users":%d,"joined":[%s],"left":[%s],"untold":%d}',
        redis.call('HLEN', here), redis.call('HLEN', users), came, went, untold))
end

-- Which of the nodes that are named in entries have a lease.
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
