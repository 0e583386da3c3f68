// All videos that are in sight run on one clock, the first one's; a frame is shown by the middle of
// its time.
const reel = { frame: 0, playing: false, known: '', speed: 1, loop: true };
function players() {
  return every('video[src]').filter(video => video.offsetParent);
}
function frames() {
  return Math.max(1, value().frames || 1);
}
function timeOf(frame) {
  return (frame + 0.5) / (value().fps || 16);
}

function cue() {
  const now = value();
  const films = now.cells.map(film);
  const all = films.filter(Boolean);
  $('.transport').hidden = !all.length;
  drawSound();
  $('.seek').max = frames() - 1;
  if (!all.length) {
    reel.playing = false;
    reel.frame = 0;
  }
  const ready = all.length && now.cells.every(cell => film(cell) || !BUSY.includes(cell.state));
  if (ready && reel.known !== all.join()) {
    // a new set is complete: play it, from its beginning
    reel.known = all.join();
    reel.frame = 0;
    if (!still.matches) play();
  }
  showFrame();
}

// One video at a time is heard, and none until somebody asks.
function drawSound() {
  const select = $('.sound');
  const heard = columns().filter(cell => cell.sounds && film(cell));
  select.hidden = !heard.length;
  const known = heard.map(cell => cell.key).join();
  if (select.dataset.known !== known) {
    const was = select.value;
    select.dataset.known = known;
    select.replaceChildren();
    make('option', '', select, 'Sound off').value = '';
    heard.forEach(cell => {
      make('option', '', select, 'Sound of ' + nameIn(cell)).value = cell.key;
    });
    select.value = heard.some(cell => cell.key === was) ? was : '';
  }
  listenTo(select.value);
}

function listenTo(key) {
  const url = key ? film(columnOf(key)) : '';
  const own = players().filter(video => url && video.getAttribute('src') === url);
  const first = own.find(video => (video.closest('.cell') || {}).dataset?.key === key) || own[0];
  every('video').forEach(video => {
    video.muted = video !== first;
  });
}

function showFrame() {
  $('.play').textContent = reel.playing ? 'Pause' : 'Play';
  $('.seek').value = reel.frame;
  $('.at').textContent = reel.frame + 1 + ' / ' + frames();
}

function seek(frame) {
  reel.playing = false;
  reel.frame = Math.min(frames() - 1, Math.max(0, frame));
  players().forEach(video => {
    video.pause();
    video.currentTime = timeOf(reel.frame);
  });
  showFrame();
}

function play() {
  if (reel.frame >= frames() - 1) reel.frame = 0;
  const running = reel.playing;
  reel.playing = true;
  players().forEach(video => {
    video.playbackRate = reel.speed;
    video.currentTime = timeOf(reel.frame);
    video.play().catch(() => {});
  });
  showFrame();
  if (!running) requestAnimationFrame(tick);
}

function tick() {
  if (!reel.playing || !element.isConnected) return;
  const [first, ...others] = players();
  const fps = value().fps || 16;
  if (first && first.readyState >= 2) {
    if (first.ended || first.currentTime >= timeOf(frames() - 1) + 0.25 / fps) {
      if (!reel.loop) {
        seek(frames() - 1);
        return;
      }
      [first, ...others].forEach(video => {
        video.currentTime = timeOf(0);
        video.play().catch(() => {});
      });
    } else {
      if (first.paused) first.play().catch(() => {});
      others.forEach(video => {
        if (!video.seeking && Math.abs(video.currentTime - first.currentTime) > 0.5 / fps)
          video.currentTime = first.currentTime;
        if (video.paused && !video.ended) video.play().catch(() => {});
      });
    }
    reel.frame = Math.min(frames() - 1, Math.floor(first.currentTime * fps));
    showFrame();
  }
  requestAnimationFrame(tick);
}

$('.play').addEventListener('click', () => (reel.playing ? seek(reel.frame) : play()));
$('.back').addEventListener('click', () => seek(reel.frame - 1));
$('.next').addEventListener('click', () => seek(reel.frame + 1));
$('.seek').addEventListener('input', event => seek(Number(event.target.value)));
$('.loop').addEventListener('change', event => {
  reel.loop = event.target.checked;
});
$('.sound').addEventListener('change', event => listenTo(event.target.value));
$('.speed').addEventListener('change', event => {
  reel.speed = Number(event.target.value);
  players().forEach(video => {
    video.playbackRate = reel.speed;
  });
});
element.addEventListener(
  'loadeddata',
  event => {
    // media events do not bubble, hence the capture
    const video = event.target;
    if (video.tagName !== 'VIDEO') return;
    const name = video.className || 'new';
    every('img.' + name, video.parentNode).forEach(image => image.classList.add('behind'));
    if (reel.playing) play();
    else video.currentTime = timeOf(reel.frame);
  },
  true,
);
