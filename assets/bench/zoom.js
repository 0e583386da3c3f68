// One zoom and place for all pictures. view.zoom is relative to the fitted picture; 1:1 and 4x are
// of the picture's own pixels.
function pixelsOf(frame) {
  const image = every('img', frame).find(one => one.naturalWidth) || $('video', frame);
  return (image && (image.naturalWidth || image.videoWidth)) || 0;
}
function shownFrame() {
  return every('.frame').find(frame => frame.offsetParent && pixelsOf(frame));
}

// How many pixels of the screen one pixel of the picture takes.
function scaleOf(frame) {
  const own = frame && pixelsOf(frame);
  return own ? (view.zoom * frame.clientWidth * devicePixelRatio) / own : 0;
}

function place() {
  const transform =
    view.zoom === 1
      ? ''
      : 'translate(' + view.x * 100 + '%, ' + view.y * 100 + '%) scale(' + view.zoom + ')';
  every('.frame').forEach(frame => {
    frame.classList.toggle('zoomed', view.zoom !== 1);
    frame.classList.toggle('sharp', view.zoom !== 1 && scaleOf(frame) >= 3.99);
    every('img, video', frame).forEach(picture => {
      picture.style.transform = transform;
    });
  });
  cut();
  const scale = scaleOf(shownFrame());
  every('[data-zoom]').forEach(button => {
    const wanted = button.dataset.zoom;
    button.setAttribute(
      'aria-pressed',
      wanted === 'fit' ? view.zoom === 1 : view.zoom !== 1 && Math.abs(scale - wanted) < 0.01,
    );
  });
  $('output.zoom').textContent = view.zoom === 1 || !scale ? '' : (100 * scale).toFixed(0) + ' %';
}

function setScale(wanted) {
  const frame = shownFrame();
  if (!frame) return;
  view.zoom = wanted / (scaleOf(frame) / view.zoom);
  view.x = view.y = (1 - view.zoom) / 2;
  keepInside();
}

function zoomAt(frame, event, factor) {
  const box = frame.getBoundingClientRect();
  const px = (event.clientX - box.left) / box.width;
  const py = (event.clientY - box.top) / box.height;
  const zoom = Math.min(32, Math.max(1, view.zoom * factor));
  const ratio = zoom / view.zoom;
  view.x = px - (px - view.x) * ratio;
  view.y = py - (py - view.y) * ratio;
  view.zoom = zoom;
  keepInside();
}

function keepInside() {
  for (const axis of ['x', 'y']) {
    const edge = 1 - view.zoom;
    view[axis] = edge > 0 ? edge / 2 : Math.min(0, Math.max(edge, view[axis]));
  }
  place();
}

function reset() {
  view.zoom = 1;
  view.x = view.y = 0;
  place();
}

const fingers = new Map();
function listen(frame) {
  frame.addEventListener(
    'wheel',
    event => {
      // without a key the page scrolls, in both directions
      if (!event.ctrlKey && !event.metaKey && !event.altKey && !document.fullscreenElement) return;
      event.preventDefault();
      zoomAt(frame, event, Math.exp(-event.deltaY / 300));
    },
    { passive: false },
  );
  frame.addEventListener('dblclick', event => {
    if (view.zoom === 1) zoomAt(frame, event, 4);
    else reset();
  });
  frame.addEventListener('pointerdown', event => {
    if (event.target.closest('select, button, a')) return;
    fingers.set(event.pointerId, event);
    const wiping = frame.closest('.stage.wipe') && !event.shiftKey && fingers.size < 2;
    if (!wiping && view.zoom === 1 && fingers.size < 2) return;
    frame.setPointerCapture(event.pointerId);
    const start = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y };
    const move = e => {
      const box = frame.getBoundingClientRect();
      if (fingers.size > 1) {
        pinch(frame, e);
        return;
      }
      if (wiping) {
        view.wipe = Math.min(
          100,
          Math.max(
            0,
            view.vertical
              ? (100 * (e.clientY - box.top)) / box.height
              : (100 * (e.clientX - box.left)) / box.width,
          ),
        );
        cut();
        return;
      }
      view.x = start.vx + (e.clientX - start.x) / box.width;
      view.y = start.vy + (e.clientY - start.y) / box.height;
      keepInside();
    };
    if (wiping) move(event);
    const end = e => {
      fingers.delete(e.pointerId);
      frame.removeEventListener('pointermove', move);
    };
    frame.addEventListener('pointermove', move);
    frame.addEventListener('pointerup', end, { once: true });
    frame.addEventListener('pointercancel', end, { once: true });
  });
  frame.addEventListener('pointerup', event => fingers.delete(event.pointerId));
}

function pinch(frame, event) {
  const apart = ([a, b]) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  const before = apart([...fingers.values()]);
  fingers.set(event.pointerId, event);
  const [a, b] = [...fingers.values()];
  const middle = {
    clientX: (a.clientX + b.clientX) / 2,
    clientY: (a.clientY + b.clientY) / 2,
  };
  zoomAt(frame, middle, apart([a, b]) / Math.max(1, before));
}

every('[data-zoom]').forEach(button =>
  button.addEventListener('click', () => {
    if (button.dataset.zoom === 'fit') reset();
    else setScale(Number(button.dataset.zoom));
  }),
);
element.addEventListener(
  'load',
  event => {
    if (event.target.tagName === 'IMG') place();
  },
  true,
);
addEventListener('resize', place);
listen($('.stage .frame'));

const screenful = () =>
  document.fullscreenElement ? document.exitFullscreen() : bench.requestFullscreen();
$('.full').addEventListener('click', screenful);
document.addEventListener('fullscreenchange', () => {
  const full = document.fullscreenElement === bench;
  $('.full').textContent = full ? 'Leave full screen' : 'Full screen';
  $('.full').classList.toggle('i-exit', full);
  place();
});
