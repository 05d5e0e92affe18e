<?php
// Answers {"token": …} for the visitor who is logged in, and 204 for a guest.
const KEY_FILE = '/etc/realtime_chat/realtime.key';

function base64url(string $bytes): string {
    return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
}

function realtime_token(array $claims, string $key): string {
    $header = ['alg' => 'HS256', 'typ' => 'JWT'];
    $parts = array_map(fn ($part) => base64url(json_encode($part, JSON_THROW_ON_ERROR)), [$header, $claims]);
    $signed = implode('.', $parts);
    return $signed . '.' . base64url(hash_hmac('sha256', $signed, $key, true));
}

session_start();
header('Cache-Control: no-store');
if (empty($_SESSION['user_id'])) {
    http_response_code(204);
    exit;
}
$token = realtime_token([
    'sub' => (string) $_SESSION['user_id'],
    'name' => $_SESSION['user_name'],
    'rooms' => ['lobby' => 'rwsp', 'help-*' => 'rws'],
    'iat' => time(),
    'exp' => time() + 600,
], trim(file(getenv('REALTIME_KEY_FILE') ?: KEY_FILE)[0]));
header('Content-Type: application/json');
echo json_encode(['token' => $token]);
