<?php
// Publish news from PHP, with the extension redis: publish.php TITLE
$redis = new Redis();
$redis->connect('127.0.0.1', 6379);
$redis->publish('socketio_news', json_encode(['title' => $argv[1], 'by' => 'PHP'], JSON_THROW_ON_ERROR));
